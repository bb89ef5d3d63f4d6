"""From files on disk to paired batches on the device: index, PK plan, DALI graph, loader."""

import os

# DALI decodes on dozens of CUDA streams. By default the driver maps all streams of a process to 8
# hardware queues, where some of DALI's wait for whole training steps. CUDA reads this once, when it
# starts.
QUEUES, MAX_QUEUES = "CUDA_DEVICE_MAX_CONNECTIONS", "32"
os.environ.setdefault(QUEUES, MAX_QUEUES)
