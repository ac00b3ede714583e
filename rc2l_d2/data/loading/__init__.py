"""From files to batches: decoding, weak and strong views, mappers and the loaders."""
