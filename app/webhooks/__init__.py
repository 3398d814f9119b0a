"""Webhooks: events that are sent to addresses of users, by Standard Webhooks (https://www.standardwebhooks.com)."""
