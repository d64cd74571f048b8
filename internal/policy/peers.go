package policy

import (
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/peer"
)

// peers finds out who is at the other end of connections.
type peers struct {
	tcp      *peer.TCP // nil where no TCP connections come, or their owners cannot be determined
	commands bool      // to be looked up
}

// openPeers returns peers also with an error, for what they can tell without.
func openPeers(cfg Config) (*peers, error) {
	p := &peers{commands: cfg.Identify}
	if !cfg.TCP {
		return p, nil
	}
	var err error
	p.tcp, err = peer.OpenTCP()
	return p, err
}

func (p *peers) close() {
	if p.tcp != nil {
		p.tcp.Close()
	}
}

// caller never guesses: who cannot be told is not known.
func (p *peers) caller(nc net.Conn) (who Caller) {
	switch c := nc.(type) {
	case *net.TCPConn:
		who.TCP = true
		if p.tcp != nil {
			uid, err := p.tcp.Owner(c)
			who.UID, who.Known = uid, err == nil
		}
	case *net.UnixConn:
		cred, err := peer.OfUnix(c)
		who.UID, who.Groups, who.Known, who.PID = cred.UID, append(cred.Groups, cred.GID), err == nil, int(cred.PID)
		if p.commands && err == nil {
			who.Command = command(cred.PID)
		}
	}
	return who
}

// command is the name of a process, or "" if it cannot be seen. If the process
// has ended it may be another's, which has its number now.
func command(pid int32) string {
	name, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/comm")
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(name), "\n")
}
