// Package clients contains only the tests that run real clients, from npm, through the real program to a fake upstream.
// They try the instructions of docs/clients.md. scripts/try-clients.sh installs the clients and runs them.
package clients
