package attack

const groupDisruptive = "What ends the proxy"

// shutdownAttempt is a web page's <img src="http://127.0.0.1:PORT/shutdown">.
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
