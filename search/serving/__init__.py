"""An OpenAI-compatible endpoint that answers with a search: `copse serve`."""
