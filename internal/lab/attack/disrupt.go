package attack

const groupDisruptive = "Attempts that end the proxy"

// shutdownAttempt sends the request of a page with <img src="http://127.0.0.1:PORT/shutdown">.
func (t *target) shutdownAttempt() attempt {
	const name, proves = "shutdown by a page", "no web page stops the proxy"
	switch {
	case !t.disruptive:
		return skip(groupDisruptive, name, proves, "only with --disruptive")
	case !t.tcp():
		return skip(groupDisruptive, name, proves, "browsers cannot reach unix sockets")
	}
	return attempt{groupDisruptive, name, proves, func() (result, string) {
		return verdict(t.send(head("GET", "/shutdown", "Host: "+t.host(), "Referer: https://evil.example/", "Sec-Fetch-Site: cross-site"), false))
	}}
}
