"""What is searched: plain torch.nn.Modules, one family per file."""
