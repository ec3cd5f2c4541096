"""Reads history: files, sockets and topics, each as records with a position to resume from."""
