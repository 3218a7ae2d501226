"""What a reader sees: static figures and one offline page, made from a run's values."""
