package cli

// Verify returns the flags of the attack suite, whose Set functions are by name.
// It is not in package attack because the proxy prints completions for them, and
// must not link that.
func Verify(set map[string]func(string) error) []Flag {
	flags := []Flag{
		{Name: "server-info", Value: "FILE", Summary: "take port and pid from the proxy's --server-info"},
		{Name: "port", Value: "N", Summary: "the proxy's port of 127.0.0.1"},
		{Name: "socket", Value: "PATH", Summary: "the proxy's unix socket", Text: "The kernel reports its pid."},
		{Name: "pid", Value: "PID", Summary: "the proxy's process", Default: "the one that listens, if this user can see it", Text: "Without it that part is skipped."},
		{Name: "test-instance", Also: map[string]string{"stand-in": ""}, Summary: "start a proxy with a made-up key and a fake upstream",
			Text: "That upstream can also redirect, echo the key and break off, and everything is tried at no cost."},
		{Name: "proxy", Value: "PROGRAM", Summary: "the program that --test-instance starts, with arguments, split at spaces",
			Default: "responses-api-proxy beside this one"},
		{Name: "allow-route", Value: "NAME", Repeat: true, Summary: "a route that was meant to be open: no fault then"},
		{Name: "key-stdin", Summary: "read the key to look for from standard input, one line", Text: "Without it only what has the shape of a key is found."},
		{Name: "spend", Summary: "also send one well-formed request", Text: "It is for a model that does not exist, to see that it arrives."},
		{Name: "disruptive", Summary: "also try to stop and to crash the proxy", Text: "Afterwards it is gone."},
		{Name: "json", Summary: "print one JSON document in place of the table"},
		{Name: "help", Summary: "print this text"},
	}
	for i := range flags {
		flags[i].Topic, flags[i].Set = "verify", set[flags[i].Name]
	}
	return flags
}

// Status returns the flags of the subcommand status.
func Status(metrics *string, json *bool) []Flag {
	return []Flag{
		{Name: "metrics", Topic: "status", Value: "ADDR|unix:PATH", Set: String(metrics, "the address of --metrics"),
			Summary: "the proxy's --metrics", Default: DefaultMetrics + ", if that exists"},
		{Name: "json", Topic: "status", Set: Bool(json), Summary: "print one JSON document in place of the tables"},
		{Name: "help", Topic: "status", Set: RequestHelp, Summary: "print how it is called"},
	}
}

// DefaultMetrics is where the container image and the examples for systemd have the metrics.
const DefaultMetrics = "unix:/run/responses-api-proxy/metrics.sock"

// Health are the flags of the subcommand health.
var Health = []Flag{
	{Name: "ready", Topic: "health", Summary: "ask whether it accepts new requests"},
	{Name: "help", Topic: "health", Summary: "print how it is called"},
}
