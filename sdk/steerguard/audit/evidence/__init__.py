"""What makes a log evidence: the tree, signed notes and checkpoints, and the files that hold them."""
