"""Is this answer the target?"""
