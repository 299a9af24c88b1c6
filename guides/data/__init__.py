"""From traces to labelled examples."""
