//go:build ignore

// Standin is an upstream for trying packages and containers by hand: it answers
// as OpenAI does, to one key only, until it is killed.
//
//	go build -o standin scripts/standin.go && ./standin 127.0.0.1:9000 sk-made-up
package main

import (
	"fmt"
	"os"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "Usage: standin ADDRESS KEY")
		os.Exit(2)
	}
	s, err := openaitest.Start(openaitest.Options{Addr: os.Args[1], Key: os.Args[2]})
	if err != nil {
		fmt.Fprintln(os.Stderr, "standin:", err)
		os.Exit(1)
	}
	fmt.Println(s.URL())
	select {}
}
