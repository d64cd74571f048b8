// Package clients holds no code but the tests that run real clients, from npm, through the real program to a fake
// upstream: what docs/clients.md says of each is tried here. scripts/try-clients.sh installs the clients and runs them.
package clients
