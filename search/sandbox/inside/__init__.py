"""What runs inside the sandbox, apart from the rest of Copse: it imports the standard library
alone.
"""
