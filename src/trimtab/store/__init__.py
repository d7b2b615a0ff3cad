"""Files that survive kills: artifacts, blocks, the lock, progress, the log and the status of a run."""
