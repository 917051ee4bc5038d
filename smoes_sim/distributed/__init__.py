"""Run a scenario for real over ``torch.distributed``; nothing imports this package but runners and, lazily, commands."""
