"""What goes wrong: every fault by name, the steps that it takes, and who is given it when."""
