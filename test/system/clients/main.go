// One user's day with the client that openapi-generator makes for Go.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"

	"github.com/google/uuid"

	"example.org/clients/api"
)

const password = "correct horse battery staple"

var client = func() *api.APIClient {
	configuration := api.NewConfiguration()
	configuration.Servers = api.ServerConfigurations{{URL: os.Getenv("BASE")}}
	return api.NewAPIClient(configuration)
}()

func holding(key string) context.Context {
	keys := map[string]api.APIKey{"apiKey": {Key: key}}
	return context.WithValue(context.Background(), api.ContextAPIKeys, keys)
}

func signUp(email, password string) api.CreateUserBody {
	body := api.NewCreateUserBody(email)
	body.SetPassword(password)
	return *body
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func codeOf(_ any, reply *http.Response, err error) []any {
	var failed *api.GenericOpenAPIError
	if !errors.As(err, &failed) {
		panic(fmt.Sprint("no failure: ", err))
	}
	return []any{reply.StatusCode, failed.Model().(api.Failure).Code}
}

// By an address and the password, or by a token and a code.
func logIn(email, token, code string) api.LogInResult {
	body := api.NewLogInBody()
	if token == "" {
		body.SetEmail(email)
		body.SetPassword(password)
	} else {
		body.SetToken(token)
		body.SetCode(code)
	}
	reply, _, err := client.SessionsAPI.LogIn(context.Background()).LogInBody(*body).Execute()
	check(err)
	return reply.Details
}

func main() {
	anyone := context.Background()
	email := os.Getenv("EMAIL")
	created, _, err := client.UsersAPI.CreateUser(anyone).
		CreateUserBody(signUp(email, password)).Execute()
	check(err)
	made := created.Details
	own := holding(made.ApiKeys[0])
	admin := holding(os.Getenv("ADMIN_KEY"))

	read, _, err := client.UsersAPI.GetUser(own, made.Id).Execute()
	check(err)
	allowed, _, err := client.UsersAPI.UpdateUser(admin, made.Id).IfMatch(`"1"`).
		UpdateUserBody(api.UpdateUserBody{Permissions: []string{"orders:read"}}).Execute()
	check(err)
	renamed := api.NewUpdateUserBody()
	renamed.SetEmail("x" + email)
	changed, _, err := client.UsersAPI.UpdateUser(own, made.Id).IfMatch(`"2"`).
		UpdateUserBody(*renamed).Execute()
	check(err)
	listed, _, err := client.UsersAPI.ListUsers(admin).Email("x" + email).View("full").Execute()
	check(err)
	session := logIn("x"+email, "", "")
	step := logIn(os.Getenv("PROTECTED"), "", "")
	finished := logIn("", step.GetToken(), os.Getenv("CODE"))
	keys, _, err := client.KeysAPI.ListKeys(own, "me").Execute()
	check(err)
	rotate := api.NewRotateKeyBody()
	rotate.SetOverlapSeconds(60)
	rotated, _, err := client.KeysAPI.RotateKey(own, "me", keys.Details[0].Id).
		RotateKeyBody(*rotate).Execute()
	check(err)

	emails := []string{}
	for _, each := range listed.Details {
		emails = append(emails, each.User.Email)
	}
	common := signUp(email, "password1")
	user := changed.Details
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"read":    read.Details.Email,
		"allowed": allowed.Details.Permissions,
		"renamed": []any{user.Email, user.Permissions, user.Version},
		"listed":  emails,
		"session": []any{session.User == made.Id, session.GetKey()[:4]},
		"twoSteps": []any{
			step.Key == nil, step.GetToken()[:4], finished.GetKey()[:4], finished.Token == nil,
		},
		"rotated": []any{
			rotated.Details.Name,
			rotated.Details.Key != made.ApiKeys[0],
			rotated.Details.Key[:4],
		},
		"refused": codeOf(client.UsersAPI.GetUser(holding("usk_wrong"), made.Id).Execute()),
		"missing": codeOf(client.UsersAPI.GetUser(admin, uuid.NewString()).Execute()),
		"faulty":  codeOf(client.UsersAPI.CreateUser(admin).CreateUserBody(common).Execute()),
	}))
}
