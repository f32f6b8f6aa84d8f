"""What is better: losses, games, rewards."""
