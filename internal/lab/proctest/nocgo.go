//go:build !cgo

package proctest

const linkedWithCgo = false
