"""What several test files share: tiny models, servers, a fake hub, a browser."""
