"""What history is read from: files of all kinds, sockets, topics, archives."""
