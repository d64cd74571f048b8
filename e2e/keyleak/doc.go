// Package keyleak holds no code but the tests of the promise about the key's
// memory: once the program has read its key, no readable copy of it exists, not
// even of a part, whatever the requests are and however they end. They run the
// real program against a stand-in upstream that lives in the test's own
// process, and look through all of the program's memory, as root.
//
// TestWorstCase is the release gate for a new version of Go: what the package
// tlsrecord knows about crypto/tls, and crypto/tls does not promise, breaks
// there.
package keyleak
