"""The whole story on one computer: `./demo` at the root of the project."""
