package jsonscan_test

import (
	"errors"
	"fmt"

	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/jsonscan"
)

var request = jsonscan.Member{Members: []jsonscan.Member{{Name: "model", ID: 1}}}

// modelOf returns the model of a request's body, and reads all of its pieces. It refuses a model that is missing,
// repeated, not a string, or longer than 64 bytes.
func modelOf(pieces ...string) (model string, err error) {
	find := jsonscan.Finder{Room: make([]byte, 65)}
	find.Start(&request)
	for _, piece := range pieces {
		for p := []byte(piece); len(p) > 0; {
			id, kind, text, rest := find.Next(p)
			if id != 0 && (kind != jsonscan.String || len(text) > 64 || model != "") {
				return "", errors.New("the model is repeated, or not a string of at most 64 bytes")
			}
			if id != 0 {
				model = string(text)
			}
			p = rest
		}
	}
	if !find.Done() || model == "" {
		return "", errors.New("the body is not JSON with one model")
	}
	return model, nil
}

func ExampleFinder() {
	fmt.Println(modelOf(`{"input":[{"model":"no"}],"mod`, `el":"gpt-5","tools":[]}`))
	fmt.Println(modelOf(`{"model":"gpt-5","\u006dodel":"o9"}`))
	fmt.Println(modelOf(`{"model":["gpt-5"]}`))
	fmt.Println(modelOf(`{"model":"gpt-5"`))
	// Output:
	// gpt-5 <nil>
	//  the model is repeated, or not a string of at most 64 bytes
	//  the model is repeated, or not a string of at most 64 bytes
	//  the body is not JSON with one model
}
