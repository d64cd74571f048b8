package attack

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/peer"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/launch"
)

// A target is the proxy that is attacked.
type target struct {
	*options
	key  []byte        // the key to search for; nil if unknown
	says string        // the proxy's own report of its protections, if available
	up   *fakeUpstream // the proxy's upstream; nil if it is OpenAI or unknown
}

// find checks that the proxy exists, and finds its process.
func find(o *options) (*target, error) {
	t := &target{options: o}
	if o.serverInfo != "" {
		if err := t.readInfo(); err != nil {
			return nil, fmt.Errorf("cannot find the proxy by --server-info: %w", err)
		}
	}
	c, err := t.dial()
	if err != nil {
		return nil, fmt.Errorf("cannot reach the proxy: %w; start it, or check the address", err)
	}
	defer c.Close()
	if t.pid == 0 {
		t.pid = t.findPID(c)
	}
	return t, checkPID(t.pid)
}

// findPID returns the process at the other end of c, or 0 if this user cannot see it.
func (t *target) findPID(c net.Conn) int {
	if u, ok := c.(*net.UnixConn); ok {
		cred, _ := peer.OfUnix(u)
		return int(cred.PID)
	}
	return listenerPID(t.port)
}

// readInfo reads the server-info file. A pid on the command line takes precedence.
func (t *target) readInfo() error {
	info, err := launch.ReadInfo(t.serverInfo)
	if err != nil {
		return err
	}
	t.port = info.Port
	if t.pid == 0 {
		t.pid = info.PID
	}
	return nil
}

// tcp reports whether the proxy is attacked over TCP, as a browser could.
func (t *target) tcp() bool { return t.socket == "" }

func (t *target) dial() (net.Conn, error) {
	network, address := "unix", t.socket
	if t.tcp() {
		network, address = "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(t.port))
	}
	return net.DialTimeout(network, address, 5*time.Second)
}

// host returns the Host field of a well-behaved client.
func (t *target) host() string {
	if t.tcp() {
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(t.port))
	}
	return "localhost"
}

func (t *target) address() string {
	if t.tcp() {
		return t.host()
	}
	return t.socket
}
