"""An engine for language models in this process."""
