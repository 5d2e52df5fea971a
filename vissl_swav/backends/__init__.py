"""The only files that name torch.distributed or faiss."""
