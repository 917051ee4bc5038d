"""What an answer takes: questions that people ask, as whole commands in fresh processes, beside the goals of each."""
