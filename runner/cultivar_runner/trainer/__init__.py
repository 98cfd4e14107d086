"""The child process that trains one job, and what it says to the agent that started it."""
