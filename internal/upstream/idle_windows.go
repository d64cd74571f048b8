package upstream

// quiet returns true: on this system it would have to wait. The next request finds out that the upstream has closed the
// connection.
func quiet(uintptr) bool { return true }
