"""The serial link, both ends of one protocol: docs/link.md."""
