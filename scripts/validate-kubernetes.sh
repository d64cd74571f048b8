#!/usr/bin/env bash
# Holds contrib/kubernetes to the schemas of Kubernetes, which the pinned tool
# carries: unknown fields, wrong types and missing ones are errors. It asks no
# cluster, so it says nothing of admission or of images.
set -euo pipefail
cd "$(dirname "$0")/.."
# The newest schemas that this release of the tool has; sidecars are in them.
GOFLAGS='' go run sigs.k8s.io/kubectl-validate@v0.0.4 --version 1.30 contrib/kubernetes/*.yaml
