"""From files on disk to paired batches on the device: index, PK plan, DALI graph, loader."""
