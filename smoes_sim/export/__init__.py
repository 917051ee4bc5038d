"""Give results to other tools: Chrome traces for Perfetto."""
