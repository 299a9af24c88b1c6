"""The tree core, beside other tree searches."""
