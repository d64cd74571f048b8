package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// flooder is a program: as user $AS_UID it opens os.Args[2] connections to port
// os.Args[1] as fast as it can, and keeps each until the proxy has ended it and
// a second has passed. It prints how many it has opened.
func flooder() {
	must(asUID(os.Getenv("AS_UID")))
	n, err := strconv.Atoi(os.Args[2])
	must(err)
	opened := 0
	var kept sync.WaitGroup
	for range n {
		c, err := net.Dial("tcp4", "127.0.0.1:"+os.Args[1])
		if err != nil {
			continue
		}
		opened++
		kept.Go(func() {
			defer c.Close()
			later := time.After(time.Second)
			c.SetReadDeadline(time.Now().Add(time.Second))
			io.Copy(io.Discard, c)
			<-later
		})
	}
	kept.Wait()
	fmt.Println(opened)
}

// flooded N DESCRIPTORS has another user flood the proxy with N connections.
// Meanwhile each of our requests must be served, and the proxy must never have
// more than DESCRIPTORS open.
func (w *world) cmdFlooded(args []string) {
	most, err := strconv.Atoi(args[1])
	w.ts.Check(err)
	cmd := exec.Command(filepath.Join(w.ts.Getenv("BIN"), "flooder"), w.p.port, args[0])
	cmd.Env = append(environment(w.ts), fmt.Sprintf("AS_UID=%d", stranger))
	done := make(chan error, 1)
	var out []byte
	go func() {
		var err error
		out, err = cmd.Output()
		done <- err
	}()
	served, held := 0, 0
	for flooding := true; flooding; served++ {
		select {
		case err := <-done:
			w.ts.Check(err)
			flooding = false
		default:
		}
		w.cmdHTTP([]string{"200", "POST", "/v1/responses"})
		fds, err := os.ReadDir(w.proc("fd"))
		w.ts.Check(err)
		held = max(held, len(fds))
	}
	w.ts.Logf("%d requests were served beside %s connections of another user; %d descriptors at most", served, out, held)
	if opened, _ := strconv.Atoi(string(out[:max(0, len(out)-1)])); opened < 1000 || served < 20 {
		w.ts.Fatalf("this was no flood")
	}
	if held > most {
		w.ts.Fatalf("%d descriptors were open, want %d at most", held, most)
	}
}
