"""Reports of finished runs: one HTML file that needs no network, and pictures for papers."""
