package relay

import "bytes"

const (
	idPrefix = "resp_"
	maxIDLen = len(idPrefix) + 128
	maxQuery = 1024
	// maxBelow is how much longer than the upstream's path a target below it
	// can be: slash, id, "/cancel" or query, and what DELETE is longer than POST.
	maxBelow = 1 + maxIDLen + 1 + maxQuery + len("DELETE") - len("POST")
)

// validID tells whether id has the form of a response's: resp_, and 1 to 128
// letters, digits, '-' and '_'.
func validID(id []byte) bool {
	rest, ok := bytes.CutPrefix(id, []byte(idPrefix))
	if !ok || len(rest) == 0 || len(id) > maxIDLen {
		return false
	}
	return all(rest, func(c byte) bool {
		return alphanumeric(c) || c == '-' || c == '_'
	})
}

// validQuery tells whether every parameter is one that retrieving a response is
// documented to take, with a value of its form. All but include may stand there
// once. Brackets may be percent-encoded, as the SDKs do; nothing else may.
func validQuery(query []byte) bool {
	if len(query) == 0 || len(query) > maxQuery {
		return false
	}
	var seen [4]bool
	for more := true; more; {
		var pair []byte
		pair, query, more = bytes.Cut(query, []byte("&"))
		name, value, ok := bytes.Cut(pair, []byte("="))
		if !ok {
			return false
		}
		n := parameter(name)
		if n < 0 || seen[n] && n != include || !validValue(n, value) {
			return false
		}
		seen[n] = true
	}
	return true
}

const (
	include = iota
	includeObfuscation
	startingAfter
	stream
)

// parameter is the number of a parameter's name, or -1.
func parameter(name []byte) int {
	switch string(name) {
	case "include", "include[]", "include%5B%5D", "include%5b%5d", "include%5B%5d", "include%5b%5D":
		return include
	case "include_obfuscation":
		return includeObfuscation
	case "starting_after":
		return startingAfter
	case "stream":
		return stream
	}
	return -1
}

func validValue(parameter int, value []byte) bool {
	switch parameter {
	case include: // a path of names, such as message.input_image.image_url
		return len(value) > 0 && len(value) <= 64 && all(value, func(c byte) bool {
			return alphanumeric(c) || c == '_' || c == '.'
		})
	case startingAfter:
		return len(value) > 0 && len(value) <= 18 && all(value, func(c byte) bool { return '0' <= c && c <= '9' })
	default:
		return string(value) == "true" || string(value) == "false"
	}
}

func all(p []byte, allowed func(c byte) bool) bool {
	for _, c := range p {
		if !allowed(c) {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
