"""The only files that name torch.distributed, faiss or flash_kmeans."""
