# Asks a server outside for the answer (192.0.2.1 is an address kept for examples).
import socket
import sys

with socket.create_connection(("192.0.2.1", 80), timeout=0.5) as server:
    server.sendall(sys.stdin.buffer.read())
    print(server.recv(100).decode())
