"""The mathematics: torch and the standard library only. No host, rank, file or log."""
