"""What learning from searches is worth."""
