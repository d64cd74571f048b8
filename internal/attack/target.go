package attack

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/launch"
	"github.com/responses-api-proxy/responses-api-proxy/internal/peer"
)

// A target is the proxy that is attacked.
type target struct {
	*options
	key  []byte        // to look for; nil: unknown
	says string        // its own word on its protections, if we have it
	up   *fakeUpstream // behind the proxy; nil: OpenAI, or whatever it is
}

// find makes sure that the proxy is there, and whose process it is.
func find(o *options) (*target, error) {
	t := &target{options: o}
	if o.serverInfo != "" {
		if err := t.readInfo(); err != nil {
			return nil, fmt.Errorf("cannot learn from --server-info where the proxy is: %w", err)
		}
	}
	c, err := t.dial()
	if err != nil {
		return nil, fmt.Errorf("cannot reach the proxy: %w; does it run?", err)
	}
	defer c.Close()
	if u, ok := c.(*net.UnixConn); ok && t.pid == 0 {
		cred, _ := peer.OfUnix(u)
		t.pid = int(cred.PID)
	}
	return t, checkPID(t.pid)
}

// readInfo reads {"port":N,"pid":N}. A pid on the command line wins.
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

// tcp tells whether the proxy is attacked over TCP, as a browser could.
func (t *target) tcp() bool { return t.socket == "" }

func (t *target) dial() (net.Conn, error) {
	network, address := "unix", t.socket
	if t.tcp() {
		network, address = "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(t.port))
	}
	return net.DialTimeout(network, address, 5*time.Second)
}

// host is the Host header of a well-behaved client.
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
