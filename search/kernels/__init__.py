"""What compiled code is made with: when it is compiled and where it is kept, and SIMD."""
