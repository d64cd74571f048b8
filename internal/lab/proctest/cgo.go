//go:build cgo

package proctest

const linkedWithCgo = true
