// This program has a module of its own, which scripts/try-clients.sh makes.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
)

func main() {
	client := openai.NewClient(option.WithBaseURL(os.Getenv("BASE")), option.WithAPIKey("none"))
	params := responses.ResponseNewParams{
		Model: "gpt-5",
		Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("Say hello")},
	}
	response, err := client.Responses.New(context.Background(), params)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(response.OutputText())

	stream := client.Responses.NewStreaming(context.Background(), params)
	for stream.Next() {
		fmt.Print(stream.Current().Delta)
	}
	if err := stream.Err(); err != nil {
		log.Fatal(err)
	}
}
