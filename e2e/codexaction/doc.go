// Package codexaction holds no code but the tests of contrib/codex-action: they run the steps of its action.yml as GitHub's
// runner does, and openai/codex-action's steps as it publishes them, with the real program and a fake upstream.
package codexaction
