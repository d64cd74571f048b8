#!/usr/bin/env bash
# Validates contrib/kubernetes against the schemas of Kubernetes, which the
# pinned tool contains: unknown fields, wrong types and missing fields are errors.
# It needs no cluster, and so checks neither admission nor images.
set -euo pipefail
cd "$(dirname "$0")/.."
# The newest schemas of this release of the tool; they include sidecars.
GOFLAGS='' go run sigs.k8s.io/kubectl-validate@v0.0.4 --version 1.30 contrib/kubernetes/*.yaml
