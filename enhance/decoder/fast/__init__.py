"""The decoder's layers once more, for GPUs: channels last, no padding copies, nothing kept that a frozen layer does not need."""
