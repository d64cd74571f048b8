#!/usr/bin/env bash
# Installs the clients of docs/clients.md, in the versions that it names, from npm and Go's module proxy into a directory
# of its own, and runs them through the program to a fake upstream (e2e/clients). It takes a minute, and leaves nothing.
#
#	try-clients.sh [BINARY] [-run REGEXP]    # needs Go and npm; without BINARY it is built
set -euo pipefail
cd "$(dirname "$0")/.."
export GOFLAGS=-buildvcs=false CGO_ENABLED=0
prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT
binary=$prefix/responses-api-proxy
case ${1:--} in
-*) go build -trimpath -o "$binary" ./cmd/responses-api-proxy ;;
*) binary=$(realpath "$1") && shift ;;
esac
npm install --prefix "$prefix" --no-audit --no-fund --loglevel=error --ignore-scripts \
	@anthropic-ai/claude-code@2.1.197 @openai/codex@0.169.0 openai@7.57.0 ai@7.0.173 @ai-sdk/openai@4.0.118 \
	@openai/agents@0.20.0 zod@4.6.7
node "$prefix/node_modules/@anthropic-ai/claude-code/install.cjs" # it puts the program for this platform in place
cp -r e2e/clients/testdata/. "$prefix/"
(cd "$prefix/openai-go" && go mod init example.com/client 2>/dev/null && go get github.com/openai/openai-go/v3@v3.98.0 2>/dev/null && go build -o ../openai-go.bin .)
CLIENTS_PROXY=$binary CLIENTS_PREFIX=$prefix go test -count=1 -tags clients -v ./e2e/clients "$@"
