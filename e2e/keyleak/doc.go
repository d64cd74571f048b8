// Package keyleak contains only the tests of the promise about the key's memory: once the program has read its key, no
// readable copy of it exists, not even of a part, whatever the requests are and however they end. They run the real
// program against a fake upstream in the test's own process, and scan all of the program's memory, as root.
//
// TestWorstCase is the release gate for a new version of Go: it fails if crypto/tls no longer behaves as the package
// tlsrecord assumes, beyond what crypto/tls promises.
package keyleak
